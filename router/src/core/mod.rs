//! The sans-IO half of the router: identity, joining, sessions, and the state machine that ties them to gossip and allocation.
