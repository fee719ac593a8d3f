"""Colour words: upstream's reward replaces an option's value by the colour in it.

The list and its order are data of WebShop (web_agent_site/engine/normalize.py, MIT); see NOTICE.
"""

from __future__ import annotations

_WORDS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo "
    "caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream "
    "crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather "
    "indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha "
    "multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal "
    "rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise "
    "violet walnut wheat white wine yellow"
)
_COLOURS = _WORDS.split()


def simplified(option: str | tuple[str, str]) -> str:
    """The first colour word within the value, as part of any word ("colored" holds "red"); else the value.

    A pair (name, value) of a synthetic goal is only looked at as a whole: a colour must be the whole name or value.
    """
    for colour in _COLOURS:
        if colour in option:
            return colour
    return str(option)
