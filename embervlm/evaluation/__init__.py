"""What a model is worth: metrics, calibration, baselines, ablations, and one report of them all."""
