"""Questions to models, however they travel: one by one, in files, from a cluster, from several machines."""
