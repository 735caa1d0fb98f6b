//! All tests that need root, in one program.
