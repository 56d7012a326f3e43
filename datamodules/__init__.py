"""Lightning data modules and data set readers, one per kind of data."""
