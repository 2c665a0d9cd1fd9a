"""How good the predictions were: scores of a window, mergeable outcomes, and labels that come late."""
