"""Save and load policies as config.json + model.safetensors, without pickle."""
