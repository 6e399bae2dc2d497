"""From a JAX function to its workload graph."""
