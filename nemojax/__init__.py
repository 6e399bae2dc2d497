"""NEMO (Miret et al. 2022): multi-objective search of mixed-precision bit-widths."""
