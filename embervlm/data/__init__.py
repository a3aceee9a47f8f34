"""What the model is taught and tested with: the scenarios, the photos, and their splits."""
