"""Published evaluation sets, one file each: how they are asked, scored, and where they lie."""
