//! What the status messages of pull requests mean.
