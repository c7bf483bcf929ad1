"""The mathematics behind the BSNN paper's theorems: Hermite series, concentration of norms."""
