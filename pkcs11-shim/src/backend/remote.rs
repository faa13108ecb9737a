//! Over gRPC: one stream for each calling thread.
