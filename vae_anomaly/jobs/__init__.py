"""Work that survives a kill: work folders, checkpoints, manifests and signals."""
