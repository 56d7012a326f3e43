"""RASL: highlight scores for any footage, learned without labels from pictures and their sound."""
