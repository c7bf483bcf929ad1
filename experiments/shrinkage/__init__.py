"""The shrinkage study: representations shrink with depth, or gradients explode."""
