"""What is measured on results, without downloaded weights where possible."""
