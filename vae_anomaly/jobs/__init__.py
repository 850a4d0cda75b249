"""Work that survives a kill: claims and work folders, checkpoints, manifests, signals and memory limits."""
