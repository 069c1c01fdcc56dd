"""Image files to pixels: decoding, checking, caching and augmenting them."""
