//! Two and more routers over one virtual clock and one bad network, with the real boringtun inside.

mod attacks;
mod chaos;
mod lanes;
mod life;
mod world;
