"""Tables, figures and HTML reports of suites."""
