//! Templates: `CK_ATTRIBUTE`s into [`Template`]s, and [`Value`]s back into them.

use crate::memory;
use crate::outcome::Rv;
use cryptoki_sys::*;
use token::protocol::{Template, Value};

/// `CK_UNAVAILABLE_INFORMATION`.
pub const UNAVAILABLE: CK_ULONG = !0;

/// A copy of the array itself.
///
/// # Safety
/// Unless it is null, `attributes` points at `count` attributes.
pub unsafe fn attributes(attributes: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Vec<CK_ATTRIBUTE>, Rv> {
    // SAFETY: as the caller vouches.
    unsafe { memory::copy(attributes, count) }
}

/// The template with its values.
///
/// # Safety
/// Unless it is null, `from` points at `count` attributes whose values are as long as they say.
pub unsafe fn read(from: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Template, Rv> {
    // SAFETY: as the caller vouches.
    let attributes = unsafe { attributes(from, count) }?;
    let mut template = Template::with_capacity(attributes.len());
    for attribute in attributes {
        if attribute.type_ & CKF_ARRAY_ATTRIBUTE != 0 && attribute.type_ != CKA_ALLOWED_MECHANISMS {
            // Templates in templates, which are full of pointers: S knows none.
            return Err(CKR_ATTRIBUTE_TYPE_INVALID);
        }
        if attribute.type_ == CKA_ALLOWED_MECHANISMS && attribute.ulValueLen % 8 != 0 {
            return Err(CKR_ATTRIBUTE_VALUE_INVALID);
        }
        // SAFETY: as the caller vouches.
        let value = unsafe { memory::copy(attribute.pValue as *const u8, attribute.ulValueLen) }
            .map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)?;
        template.push((attribute.type_, value));
    }
    Ok(template)
}

/// Whether what the template describes is to outlive the session.
pub fn lasting(template: &Template) -> bool {
    template.iter().any(|(kind, value)| *kind == CKA_TOKEN && value.first().is_some_and(|byte| *byte != 0))
}

/// Fills the attributes at `to`, each by itself, as `C_GetAttributeValue` has it.
///
/// # Safety
/// `to` points at as many attributes as there are `asked`, a copy of them; where they point there is room for what they say.
pub unsafe fn fill(to: *mut CK_ATTRIBUTE, asked: &[CK_ATTRIBUTE], values: &[Value]) -> Result<(), Rv> {
    if asked.len() != values.len() {
        return Err(CKR_GENERAL_ERROR);
    }
    let mut outcome = Ok(());
    for (i, (attribute, value)) in asked.iter().zip(values).enumerate() {
        let length = match value {
            Value::Is(value) if attribute.pValue.is_null() => value.len() as CK_ULONG,
            Value::Is(value) if attribute.ulValueLen >= value.len() as CK_ULONG => {
                // SAFETY: there is room, as the caller vouches.
                unsafe { memory::write(attribute.pValue.cast(), value) };
                value.len() as CK_ULONG
            }
            Value::Is(_) => {
                outcome = Err(CKR_BUFFER_TOO_SMALL);
                UNAVAILABLE
            }
            Value::Sensitive => {
                outcome = Err(CKR_ATTRIBUTE_SENSITIVE);
                UNAVAILABLE
            }
            Value::Invalid => {
                outcome = Err(CKR_ATTRIBUTE_TYPE_INVALID);
                UNAVAILABLE
            }
        };
        // SAFETY: one of the caller's attributes, which need not be aligned.
        unsafe { (&raw mut (*to.add(i)).ulValueLen).write_unaligned(length) };
    }
    outcome
}
