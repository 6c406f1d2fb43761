"""Trackers: what training logs and a comparison finds, in W&B, TensorBoard, Trackio or MLflow, where asked for."""
