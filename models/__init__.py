"""LightningModules: one per thing that is trained, over a common base."""
