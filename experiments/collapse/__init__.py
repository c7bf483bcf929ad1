"""The collapse study: deep narrow ReLU networks."""
