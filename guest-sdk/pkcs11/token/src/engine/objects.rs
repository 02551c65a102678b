//! Objects: made from templates, found, read, changed. Who sees and changes what is here.

use super::Engine;
use crate::ck::{attribute, class, rv};
use crate::keys;
use crate::object::Object;
use crate::pin::Role;
use crate::platform::{Platform, Rng};
use crate::protocol::{Answer, Error, Response, Template};
use crate::rules::{self, Origin};
use crate::store::Store;
use alloc::vec::Vec;

/// Objects, of sessions and kept: so many the heap has room for, and once more those that are kept while they change.
const OBJECTS: usize = 256;

impl<P: Platform> Engine<P> {
    /// Whether who is logged in sees it.
    fn sees(&self, object: &Object) -> bool {
        !object.flag(attribute::PRIVATE) || self.login == Some(Role::User)
    }

    /// An object that there is, for who is logged in.
    pub(super) fn object(&self, handle: u64) -> Result<&Object, Error> {
        let kept = self.store.as_ref().and_then(|store| store.objects.get(&handle));
        kept.or_else(|| self.objects.get(&handle).map(|(_, object)| object))
            .filter(|object| self.sees(object))
            .ok_or(Error::Rv(rv::OBJECT_HANDLE_INVALID))
    }

    /// A key for a purpose: `Err(wrong)` if there is none of that handle.
    pub(super) fn key(&self, handle: u64, wrong: u64) -> Result<&Object, Error> {
        let object = self.object(handle).map_err(|_| Error::Rv(wrong))?;
        if matches!(object.class(), class::PUBLIC_KEY | class::PRIVATE_KEY | class::SECRET_KEY) {
            return Ok(object);
        }
        Err(Error::Rv(wrong))
    }

    pub(super) fn is_officer(&self) -> bool {
        self.login == Some(Role::Officer)
    }

    /// Whether the session may have such an object made.
    pub(super) fn may_make(&self, session: u64, object: &Object) -> Result<(), Error> {
        let write = self.session(session)?.write;
        if !self.sees(object) {
            return Err(Error::Rv(rv::USER_NOT_LOGGED_IN));
        }
        if Store::keeps(object) && !write {
            return Err(Error::Rv(rv::SESSION_READ_ONLY));
        }
        self.may_keep(object)
    }

    /// Adds objects, all of them or none: their handles.
    pub(super) fn add(
        &mut self,
        session: u64,
        objects: Vec<Object>,
    ) -> Result<(Option<Store>, Vec<u64>), Error> {
        let mut store = None;
        let mut handles = Vec::new();
        for object in &objects {
            self.may_make(session, object)?;
        }
        let kept = self.store.as_ref().map_or(0, |store| store.objects.len());
        if self.objects.len() + kept + objects.len() > OBJECTS {
            return Err(Error::Rv(rv::DEVICE_MEMORY));
        }
        for object in objects {
            if Store::keeps(&object) {
                let store = match &mut store {
                    Some(store) => store,
                    none => none.insert(self.store()?.clone()),
                };
                handles.push(store.add(object));
            } else {
                let handle = self.next_object;
                self.next_object += 1;
                self.objects.insert(handle, (session, object));
                handles.push(handle);
            }
        }
        Ok((store, handles))
    }

    /// The same, and one handle for an answer.
    pub(super) fn add_one(&mut self, session: u64, object: Object) -> Response {
        let (store, handles) = self.add(session, Vec::from([object]))?;
        let answer = Answer::Handle(handles.first().copied().unwrap_or_default());
        match store {
            Some(store) => self.change(store, answer),
            None => Ok(answer),
        }
    }

    pub(super) fn create_object(&mut self, session: u64, template: &Template) -> Response {
        self.session(session)?;
        let mut object = rules::begin(template, &[], Origin::Created, self.is_officer())?;
        // Before all that may be wrong with it.
        if Store::keeps(&object) && !self.session(session)?.write {
            return Err(Error::Rv(rv::SESSION_READ_ONLY));
        }
        let mut rng = Rng::new(&mut self.tools.platform);
        keys::check_created(&mut object, self.tools.adx, &mut rng)?;
        rng.finish(())?;
        rules::complete(&mut object, Origin::Created)?;
        self.add_one(session, object)
    }

    pub(super) fn copy_object(&mut self, session: u64, handle: u64, template: &Template) -> Response {
        self.session(session)?;
        let mut object = self.object(handle)?.clone();
        if !object.flag(attribute::COPYABLE) {
            return Err(Error::Rv(rv::ACTION_PROHIBITED));
        }
        rules::change(&mut object, template, true, self.is_officer())?;
        self.add_one(session, object)
    }

    /// Whether it may be made, changed or destroyed by who is logged in: what the token keeps, by nobody else.
    fn may_keep(&self, object: &Object) -> Result<(), Error> {
        if Store::keeps(object) && self.login.is_none() {
            return Err(Error::Rv(rv::USER_NOT_LOGGED_IN));
        }
        Ok(())
    }

    /// Whether the session may change or destroy it.
    fn may_change(&self, session: u64, object: &Object, permission: u64) -> Result<(), Error> {
        if Store::keeps(object) && !self.session(session)?.write {
            return Err(Error::Rv(rv::SESSION_READ_ONLY));
        }
        if !object.flag(permission) {
            return Err(Error::Rv(rv::ACTION_PROHIBITED));
        }
        self.may_keep(object)
    }

    pub(super) fn destroy_object(&mut self, session: u64, handle: u64) -> Response {
        self.session(session)?;
        self.may_change(session, self.object(handle)?, attribute::DESTROYABLE)?;
        if self.objects.remove(&handle).is_some() {
            return Ok(Answer::Done);
        }
        let mut store = self.store()?.clone();
        store.objects.remove(&handle);
        self.change(store, Answer::Done)
    }

    pub(super) fn set_attributes(&mut self, session: u64, handle: u64, template: &Template) -> Response {
        self.session(session)?;
        let mut object = self.object(handle)?.clone();
        self.may_change(session, &object, attribute::MODIFIABLE)?;
        rules::change(&mut object, template, false, self.is_officer())?;
        if let Some((_, there)) = self.objects.get_mut(&handle) {
            *there = object;
            return Ok(Answer::Done);
        }
        let mut store = self.store()?.clone();
        store.objects.insert(handle, object);
        self.change(store, Answer::Done)
    }

    pub(super) fn find_objects(&self, template: &Template) -> Vec<u64> {
        let kept = self.store.iter().flat_map(|store| store.objects.iter());
        let others = self.objects.iter().map(|(handle, (_, object))| (handle, object));
        kept.chain(others)
            .filter(|(_, object)| self.sees(object) && object.matches(template))
            .map(|(handle, _)| *handle)
            .collect()
    }
}
