"""The theory study: the BSNN paper's theorems and lemmas, checked by numbers."""
