"""Telemetry in: decoded, attributed to agents, admitted."""
