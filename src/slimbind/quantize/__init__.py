"""WEIGHTS made small and fast: schemes, smoothing, calibration, sensitivity, recipes, and the paper's two baselines."""
