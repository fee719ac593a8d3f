"""Runs envs behind the contract: `server` speaks gRPC, `front` keeps sessions, `worker` owns the simulators."""
