"""Judgement of an equalizer on images it was not fitted to: scores, gates, baselines, verdict and report."""
