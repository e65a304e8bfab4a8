"""Training: pictures to a checkpoint, a checkpoint to shippable weights. Not needed to decode."""
