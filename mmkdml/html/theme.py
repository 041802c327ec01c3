"""Colors of pages, for light and dark screens and for paper."""

from __future__ import annotations

#: The palette of figures, whose black is the color of the text.
SERIES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', 'var(--text)')
#: CSS variables: (light, dark).
COLORS = {
    'bg': ('#ffffff', '#14171c'),
    'surface': ('#f6f7f9', '#1c2128'),
    'raised': ('#ffffff', '#232932'),
    'hover': ('#eef2f7', '#2a313b'),
    'line': ('#dfe3e8', '#343c47'),
    'line-strong': ('#aab2bd', '#596473'),
    'text': ('#1b1f24', '#e6e9ee'),
    'muted': ('#57606a', '#a3adb9'),
    'link': ('#0b5f97', '#7cc4f5'),
    'focus': ('#0072b2', '#56b4e9'),
    'good': ('#00684c', '#4cc9a3'),
    'good-bg': ('#e2f4ee', '#12372d'),
    'bad': ('#a84300', '#ff9a52'),
    'bad-bg': ('#fdeee2', '#41240f'),
    'neutral-bg': ('#eceff3', '#2b323c'),
    'accent-bg': ('#e3f0f9', '#14324a'),
}


def color_css() -> str:
    """Return the style sheet that defines the colors as variables.

    A dark page is one that the system prefers, unless the reader chose a light one. Paper is light.
    """
    light, dark = (
        ''.join(f'--{name}: {pair[index]}; ' for name, pair in COLORS.items()) for index in (0, 1)
    )
    series = ''.join(f'--series-{place}: {color}; ' for place, color in enumerate(SERIES, 1))
    return (
        f':root {{ color-scheme: light; {light}{series}}}\n'
        '@media screen and (prefers-color-scheme: dark) {\n'
        f'  :root:not([data-theme=light]) {{ color-scheme: dark; {dark}}}\n'
        '}\n'
        f'@media screen {{ :root[data-theme=dark] {{ color-scheme: dark; {dark}}} }}\n'
    )
