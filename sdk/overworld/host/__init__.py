"""The env server: `server` speaks gRPC, `front` keeps sessions, `worker` owns the simulators."""
