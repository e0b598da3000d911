"""Parts of `ais bench peers`: the peers' environment, the demo trained by them and by us, and the ratios."""
