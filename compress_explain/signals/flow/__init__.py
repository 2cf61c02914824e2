"""How features flow: what heads look at, how far the stream spreads, which neurons speak."""
