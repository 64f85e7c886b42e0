"""Training beyond the tutorials: the robust recipe, and epochs that can be repeated."""
