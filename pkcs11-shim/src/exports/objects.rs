//! Objects (section 5.7).

use super::*;
use crate::object;

exports! {
    /// Section 5.7.
    initialized fn C_CreateObject(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        object: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(object)?;
        let template = call.caller.template(template, count)?;
        out.write(object::create_object(call.module, &session, &template)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_CopyObject(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        copy: *mut CK_OBJECT_HANDLE,
    ) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(copy)?;
        let template = call.caller.template(template, count)?;
        out.write(object::copy_object(call.module, &session, object, &template)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) |call| {
        let session = call.session(session)?;
        object::destroy_object(call.module, &session, object)
    };

    /// Section 5.7.
    initialized fn C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: Len) |call| {
        let session = call.session(session)?;
        let out = call.caller.out(size)?;
        out.write(object::object_size(call.module, &session, object)?);
        Ok(())
    };

    /// Section 5.7.
    initialized fn C_GetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let template = non_null(template)?;
        let object = call.module.object(&session, object)?;
        let answer = |kind| object::attribute_value(call.module, &object, kind);
        call.caller.fill_template(template, count, answer)
    };

    /// Section 5.7.
    initialized fn C_SetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        let template = call.caller.template(non_null(template)?, count)?;
        object::set_attribute_value(call.module, &session, object, &template)
    };

    /// Section 5.7.
    initialized fn C_FindObjectsInit(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) |call| {
        let session = call.session(session)?;
        object::find_objects_init(call.module, &session, &call.caller.search_template(template, count)?)
    };

    /// Section 5.7.
    initialized fn C_FindObjects(
        session: CK_SESSION_HANDLE,
        objects: *mut CK_OBJECT_HANDLE,
        max: CK_ULONG,
        count: Len,
    ) |call| {
        let session = call.session(session)?;
        let mut room = max;
        let out = call.caller.out_buffer(non_null(objects)?, &raw mut room)?;
        let out_count = call.caller.out(count)?;
        let found = object::find_objects(&session, usize::try_from(max).unwrap_or(usize::MAX))?;
        out_count.write(found.len() as CK_ULONG);
        out.deliver_list(&found)
    };

    /// Section 5.7.
    initialized fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) |call| {
        object::find_objects_final(&*call.session(session)?)
    };
}
