"""Reports: one hour or one day of a model as a single HTML page that opens offline."""
