from matplotlib.colors import to_rgb

from mmkdml.figures.style import CLASS_COLORS, class_color


def test_colors_of_many_classes_are_distinct():
    colors = [to_rgb(class_color(index)) for index in range(27)]
    assert len({*colors}) == 27
    assert colors[:7] == [to_rgb(color) for color in CLASS_COLORS]
    assert to_rgb(class_color(27)) == colors[0]
