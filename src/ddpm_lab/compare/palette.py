"""How choices look in plots. Colour, and dash or symbol, tell PLACES choices apart.

The colours of each scheme have a contrast of 3:1 or more to its background (WCAG 2.2, 1.4.11). They were chosen for the largest
least distance in OKLab (Ottosson 2020), also as seen without red or green receptors (Machado et al. 2009).
"""

LIGHT = ("#0072b2", "#d55e00", "#008f68", "#c2559a", "#5d240e", "#3d1487", "#8082f7", "#744470", "#5b5c15", "#1e3d46")
DARK = ("#56b4e9", "#f0883e", "#2fc08f", "#e08bbf", "#ecee55", "#765dcf", "#e4e1fe", "#7e745a", "#57f9b0", "#b24393")
"""On a dark background."""
NEUTRAL = ("#767d86", "#8b939d")
"""Of what is no choice, or not supported: in the light and in the dark scheme."""
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
"""Of plotly, with those of matplotlib."""
SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^"}
PLACES = len(LIGHT) * len(DASHES)


def looks(place: int) -> dict[str, int | str]:
    """Of the choice at a place among all: the number of its colour, its dash and its symbol."""
    further, colour = divmod(place % PLACES, len(LIGHT))
    return {"colour": colour, "dash": list(DASHES)[further], "symbol": list(SYMBOLS)[further]}
