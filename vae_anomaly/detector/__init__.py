"""The fitted whole: schema, ensemble, threshold and card; scoring as a stream of batches. Pure."""
