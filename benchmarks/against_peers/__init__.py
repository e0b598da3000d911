"""Parts of `ais bench peers`: the peers' environment, a problem trained by them and by us, and the ratios."""
