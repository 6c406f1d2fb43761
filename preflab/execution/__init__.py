"""What a run is made of, as a graph, and who builds it: here, in processes forked or started anew, or on a cluster."""
