"""Lessons across requests: what operators corrected, and when it applies again."""
