//! In this process: the services, their state directory, no server.
