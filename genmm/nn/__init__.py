"""Network parts shared by several systems; import from the module that holds the part."""
