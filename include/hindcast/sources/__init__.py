"""Where logs and labels come from: one file per system behind one small Protocol."""
