//! The macro behind the table of event types: what it makes of one entry.
//!
//! Of each entry: a variant of `EventType` and of `Payload`, a struct with its fields, the list of
//! those fields, a reader and a checker of JSON members, a visitor of the values, and a writer of
//! JSON members from the protobuf message.

macro_rules! rust_type {
    (req $ty:ty) => { $ty };
    (opt $ty:ty) => { Option<$ty> };
    (list $ty:ty) => { $ty };
}
macro_rules! finish {
    (req $slot:ident, $type_name:literal, $field:expr) => {
        match $slot {
            Some(value) => value,
            None => return Err(Failure::missing($type_name, "data.", $field)),
        }
    };
    (opt $slot:ident, $type_name:literal, $field:expr) => {
        $slot
    };
    (list $slot:ident, $type_name:literal, $field:expr) => {
        $slot.unwrap_or_default()
    };
}
macro_rules! is_required {
    (req) => {
        true
    };
    (opt) => {
        false
    };
    (list) => {
        false
    };
}
macro_rules! present {
    (req $value:expr, $see:expr) => {
        $see(&$value)
    };
    (opt $value:expr, $see:expr) => {
        if let Some(value) = &$value {
            $see(value)
        }
    };
    (list $value:expr, $see:expr) => {
        $see(&$value)
    };
}

/// Stores each member in the variable of its field, found by the field's name or an alias.
macro_rules! store_each {
    ($members:ident, $variant:ident, $($field:ident [$($alias:literal)*])*) => {
        for member in $members {
            match &*member.key.read() {
                $(
                    stringify!($field) => {
                        const FIELD: &Field = named($variant::FIELDS, stringify!($field));
                        store(&mut $field, member, FIELD, false)?;
                    }
                    $($alias => {
                        const FIELD: &Field = named($variant::FIELDS, stringify!($field));
                        store(&mut $field, member, FIELD, true)?;
                    })*
                )*
                _ => {}
            }
        }
    };
}

macro_rules! event_types {
    (
        bare {$(
            $(#[doc = $bare_doc:literal])*
            $bare_number:literal $bare:ident = $bare_name:literal $(| $bare_alias:literal)* [$($bare_env:literal),*];
        )*}
        with_data {$(
            $(#[doc = $doc:literal])*
            $number:literal $variant:ident = $name:literal $(| $alias:literal)* [$($env:literal),*] {$(
                $(#[doc = $fdoc:literal])*
                $fnumber:literal $presence:ident $field:ident $(| $falias:literal)*: $ty:ty = $kind:expr;
            )*}
        )*}
    ) => {
        /// The type of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[doc = $bare_doc])* $bare,)*
            $($(#[doc = $doc])* $variant,)*
            /// An event that an application defined: `custom.<name>`.
            Custom,
        }

        /// What happened, by type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Payload {
            $($(#[doc = $bare_doc])* $bare,)*
            $($(#[doc = $doc])* $variant($variant),)*
            /// An event that an application defined; the full name, `custom.<name>`.
            Custom(Box<str>),
        }

        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $variant {
                $($(#[doc = $fdoc])* pub $field: rust_type!($presence $ty),)*
            }

            impl $variant {
                /// The fields of `data`.
                pub const FIELDS: &'static [Field] = &[$(
                    Field {
                        name: stringify!($field),
                        number: $fnumber,
                        kind: $kind,
                        required: is_required!($presence),
                        aliases: &[$($falias),*],
                        doc: concat!($($fdoc),*),
                        column: columns::payload_column(stringify!($field)),
                    },
                )*];

                fn read(members: &mut [Member<'_>]) -> Result<Self, Failure> {
                    $(let mut $field: Option<$ty> = None;)*
                    store_each!(members, $variant, $($field [$($falias)*])*);
                    Ok(Self {
                        $($field: finish!(
                            $presence $field, $name,
                            const { named($variant::FIELDS, stringify!($field)) }
                        ),)*
                    })
                }

                fn check(members: &mut [Member<'_>]) -> Result<(), Failure> {
                    $(let mut $field: Option<Checked<$ty>> = None;)*
                    store_each!(members, $variant, $($field [$($falias)*])*);
                    $(if is_required!($presence) && $field.is_none() {
                        const FIELD: &Field = named($variant::FIELDS, stringify!($field));
                        return Err(Failure::missing($name, "data.", FIELD));
                    })*
                    Ok(())
                }

                fn visit<'a>(&'a self, see: &mut impl FnMut(&'static Field, ColumnValue<'a>)) {
                    $({
                        const FIELD: &Field = named($variant::FIELDS, stringify!($field));
                        present!($presence self.$field, |value: &'a $ty| see(FIELD, value.column()));
                    })*
                }
            }
        )*

        impl EventType {
            /// Every type but [`EventType::Custom`].
            pub const ALL: &'static [Self] = &[$(Self::$bare,)* $(Self::$variant,)*];

            /// What the table says; nothing for [`EventType::Custom`].
            pub const fn info(self) -> Option<TypeInfo> {
                match self {
                    Self::Custom => None,
                    _ => Some(self.known_info()),
                }
            }

            const fn known_info(self) -> TypeInfo {
                match self {
                    $(Self::$bare => TypeInfo {
                        event_type: self,
                        name: self.as_str(),
                        aliases: &[$($bare_alias),*],
                        message: stringify!($bare),
                        number: self.number(),
                        envelope: self.envelope(),
                        fields: &[],
                        doc: concat!($($bare_doc),*),
                    },)*
                    $(Self::$variant => TypeInfo {
                        event_type: self,
                        name: self.as_str(),
                        aliases: &[$($alias),*],
                        message: stringify!($variant),
                        number: self.number(),
                        envelope: self.envelope(),
                        fields: $variant::FIELDS,
                        doc: concat!($($doc),*),
                    },)*
                    Self::Custom => TypeInfo {
                        event_type: self,
                        name: self.as_str(),
                        aliases: &[],
                        message: "Custom",
                        number: self.number(),
                        envelope: self.envelope(),
                        fields: &[],
                        doc: " An event that an application defined.",
                    },
                }
            }

            /// Its number in the protobuf `oneof`, and in stored records.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$bare => $bare_number,)*
                    $(Self::$variant => $number,)*
                    Self::Custom => CUSTOM_NUMBER,
                }
            }

            /// The type of this number; nothing for that of custom events, which have a name.
            pub(crate) const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($bare_number => Some(Self::$bare),)*
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Envelope fields that this type requires.
            pub(crate) const fn envelope(self) -> &'static [&'static str] {
                match self {
                    $(Self::$bare => &[$($bare_env),*],)*
                    $(Self::$variant => &[$($env),*],)*
                    Self::Custom => &[],
                }
            }

            /// The canonical name; `custom` for [`EventType::Custom`].
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$bare => $bare_name,)*
                    $(Self::$variant => $name,)*
                    Self::Custom => "custom",
                }
            }

            /// The type of this name, aliases and `custom.<name>` included.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($bare_name $(| $bare_alias)* => Some(Self::$bare),)*
                    $($name $(| $alias)* => Some(Self::$variant),)*
                    _ => is_custom_name(name).then_some(Self::Custom),
                }
            }
        }

        impl Payload {
            /// The type.
            pub const fn event_type(&self) -> EventType {
                match self {
                    $(Self::$bare => EventType::$bare,)*
                    $(Self::$variant(_) => EventType::$variant,)*
                    Self::Custom(_) => EventType::Custom,
                }
            }

            /// The canonical name; `custom.<name>` for custom events.
            pub fn type_name(&self) -> &str {
                match self {
                    Self::Custom(name) => name,
                    _ => self.event_type().as_str(),
                }
            }

            /// Reads the members of `data`, giving known ones their canonical names.
            pub(crate) fn read(
                event_type: EventType,
                type_name: &str,
                members: &mut [Member<'_>],
            ) -> Result<Self, Failure> {
                match event_type {
                    $(EventType::$bare => Ok(Self::$bare),)*
                    $(EventType::$variant => $variant::read(members).map(Self::$variant),)*
                    EventType::Custom => Ok(Self::Custom(type_name.into())),
                }
            }

            /// Checks the members of `data` as [`Payload::read`] does, and keeps nothing.
            pub(crate) fn check(
                event_type: EventType,
                members: &mut [Member<'_>],
            ) -> Result<(), Failure> {
                match event_type {
                    $(EventType::$bare => Ok(()),)*
                    $(EventType::$variant => $variant::check(members),)*
                    EventType::Custom => Ok(()),
                }
            }

            /// Visits the fields that have a value, in the table's order.
            pub fn visit<'a>(&'a self, mut see: impl FnMut(&'static Field, ColumnValue<'a>)) {
                match self {
                    $(Self::$bare => {})*
                    $(Self::$variant(payload) => payload.visit(&mut see),)*
                    Self::Custom(_) => {}
                }
            }
        }

        impl learning_event::Payload {
            /// The type that the message belongs to.
            pub(crate) const fn event_type(&self) -> EventType {
                match self {
                    $(Self::$bare(_) => EventType::$bare,)*
                    $(Self::$variant(_) => EventType::$variant,)*
                    Self::Custom(_) => EventType::Custom,
                }
            }

            /// Writes the message's fields as members of `data`.
            pub(crate) fn write(&self, data: &mut Object<'_>) {
                match self {
                    $(Self::$bare(_) => {})*
                    $(Self::$variant(message) => {
                        $(message.$field.write(stringify!($field), data);)*
                    })*
                    Self::Custom(custom) => data.splice(custom.data.as_deref()),
                }
            }
        }
    };
}

pub(super) use {event_types, finish, is_required, present, rust_type, store_each};
