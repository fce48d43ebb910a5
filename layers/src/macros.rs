//! What every service of a layer has.

/// `get_ref`, `get_mut` and `into_inner`, as tower's own services have them.
macro_rules! define_inner_service_accessors {
    () => {
        /// The inner service.
        pub fn get_ref(&self) -> &S {
            &self.inner
        }

        /// The inner service, to change.
        pub fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        /// Gives up this layer and returns the inner service.
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}

pub(crate) use define_inner_service_accessors;
