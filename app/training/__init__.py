"""Behind `genmm fit` and its sisters: the parser, the run folder, the session, the export."""
