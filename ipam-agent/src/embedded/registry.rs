//! What the API serves: the resources, where their objects are stored, and what is particular to each.

use std::sync::Arc;

use anyhow::{Context, Result};
use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::builtin;
use super::schema::Schema;
use super::store::KindId;

/// Everything that is served.
pub(super) struct Registry {
    pub resources: Vec<Arc<Resource>>,
    pub storages: Vec<Storage>,
}

/// The objects of one kind, whichever resources show them.
pub(super) struct Storage {
    /// Such as `vpcips.eni-ipam.dev`; the first part of the key on disk.
    pub name: String,
    /// Beyond so many objects, the one written longest ago is removed.
    pub capacity: Option<usize>,
}

/// A custom resource, and the Rust type that its objects must fit.
pub struct CustomKind {
    crd: CustomResourceDefinition,
    normalize: Normalize,
}

impl CustomKind {
    /// The kind of a type that derives `kube::CustomResource`.
    #[must_use]
    pub fn of<K: kube::CustomResourceExt + Serialize + DeserializeOwned>() -> Self {
        Self { crd: K::crd(), normalize: normalize::<K> }
    }
}

/// A resource, as it is named in paths and shown to clients.
pub(super) struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub short_names: Vec<String>,
    /// Names under which kubectl gets it together with others.
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Whether `/status` is a subresource of its own: then no other path writes the status.
    pub has_status: bool,
    /// Whether a PUT without a resourceVersion overwrites, as for most built-in kinds, or is refused.
    pub unconditional_update: bool,
    pub columns: Vec<Column>,
    /// Field selectors, and the JSON pointers into the stored object that they compare.
    pub selectable: Vec<(String, String)>,
    pub normalize: Normalize,
    /// The status of a new object.
    pub initial_status: Option<Value>,
    pub storage: KindId,
    /// Fields whose name (first) differs from the stored object's (second).
    pub renamed: &'static [(&'static str, &'static str)],
    /// Its schema, where one is known.
    pub schema: Option<Schema>,
}

/// Reads an object into its Rust type and back: unknown fields go, defaults come.
pub(super) type Normalize = fn(Value) -> Result<Value, Invalid>;

/// A field that does not fit its type.
#[derive(Debug)]
pub(super) struct Invalid {
    pub field: String,
    pub problem: String,
}

/// [`Normalize`] for a type.
pub(super) fn normalize<K: Serialize + DeserializeOwned>(object: Value) -> Result<Value, Invalid> {
    let typed: K = serde_path_to_error::deserialize(object)
        .map_err(|error| Invalid { field: error.path().to_string(), problem: error.inner().to_string() })?;
    serde_json::to_value(typed).map_err(|error| Invalid { field: ".".to_owned(), problem: error.to_string() })
}

/// A column of a table.
pub(super) struct Column {
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `date` and so on.
    pub type_: String,
    pub format: String,
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i32,
    pub cell: Cell,
}

/// How a cell is found.
pub(super) enum Cell {
    Path(Box<JpQuery>),
    Computed(fn(&Value) -> Value),
}

impl Column {
    /// The column that every table starts with.
    pub fn name() -> Self {
        Self {
            format: "name".to_owned(),
            ..Self::computed("Name", "string", 0, |object| super::object::meta_str(object, "name").into())
        }
    }

    pub fn computed(name: &str, type_: &str, priority: i32, cell: fn(&Value) -> Value) -> Self {
        Self {
            name: name.to_owned(),
            type_: type_.to_owned(),
            format: String::new(),
            description: String::new(),
            priority,
            cell: Cell::Computed(cell),
        }
    }

    /// A column of a JSON path as CRDs write it, such as `.spec.type`.
    pub fn path(name: &str, type_: &str, priority: i32, path: &str) -> Result<Self> {
        let query = parse_json_path(&format!("${path}"))
            .with_context(|| format!("column {name}: {path:?} is no JSON path"))?;
        let cell = Cell::Path(Box::new(query));
        Ok(Self { cell, ..Self::computed(name, type_, priority, |_| Value::Null) })
    }

    pub fn age() -> Result<Self> {
        Self::path("Age", "date", 0, ".metadata.creationTimestamp")
    }
}

impl Resource {
    /// `vpcips.eni-ipam.dev`, or `pods` in the core group.
    pub fn qualified(&self) -> String {
        qualify(&self.plural, &self.group)
    }

    /// `VpcIP.eni-ipam.dev`, or `Pod` in the core group.
    pub fn qualified_kind(&self) -> String {
        qualify(&self.kind, &self.group)
    }

    /// `eni-ipam.dev/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Shows a stored object as this resource has it.
    pub fn shown(&self, object: &Value) -> Value {
        self.rename(object, |(shown, stored)| (stored, shown))
    }

    /// Stores an object of this resource, in the form that its storage has.
    pub fn to_stored(&self, object: &Value, stored: &Self) -> Value {
        let mut object = self.rename(object, |(shown, stored)| (shown, stored));
        object["apiVersion"] = stored.api_version().into();
        object["kind"] = stored.kind.clone().into();
        object
    }

    /// Whether objects look here as they are stored.
    pub fn shows_as_stored(&self) -> bool {
        self.renamed.is_empty()
    }

    fn rename(
        &self,
        object: &Value,
        direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Value {
        let mut renamed = object.clone();
        if let (Some(old), Some(new)) = (object.as_object(), renamed.as_object_mut()) {
            let pairs = || self.renamed.iter().copied().map(direction);
            for (from, _) in pairs() {
                new.remove(from);
            }
            for (from, to) in pairs() {
                if let Some(value) = old.get(from) {
                    new.insert(to.to_owned(), value.clone());
                }
            }
            new.insert("apiVersion".to_owned(), self.api_version().into());
            new.insert("kind".to_owned(), self.kind.clone().into());
        }
        renamed
    }
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl Registry {
    /// The built-in kinds and these custom ones.
    pub fn new(custom: Vec<CustomKind>) -> Result<Self> {
        let mut registry = Self { resources: Vec::new(), storages: Vec::new() };
        builtin::register(&mut registry)?;
        for kind in custom {
            registry.add_custom(kind)?;
        }
        Ok(registry)
    }

    /// Adds a resource whose objects have a storage of their own.
    pub fn add(&mut self, mut resource: Resource, capacity: Option<usize>) -> KindId {
        let storage = self.storages.len();
        self.storages.push(Storage { name: resource.qualified(), capacity });
        resource.storage = storage;
        self.resources.push(Arc::new(resource));
        storage
    }

    fn add_custom(&mut self, kind: CustomKind) -> Result<()> {
        let CustomKind { crd, normalize } = kind;
        let names = crd.spec.names;
        let version =
            crd.spec.versions.into_iter().find(|version| version.served && version.storage).with_context(
                || format!("custom resource {}: no version is served and stored", names.plural),
            )?;
        let mut columns = vec![Column::name()];
        let declared = version.additional_printer_columns.unwrap_or_default();
        for column in &declared {
            columns.push(Column {
                format: column.format.clone().unwrap_or_default(),
                description: column.description.clone().unwrap_or_default(),
                ..Column::path(&column.name, &column.type_, column.priority.unwrap_or(0), &column.json_path)?
            });
        }
        if declared.is_empty() {
            columns.push(Column::age()?);
        }
        let namespaced = crd.spec.scope == "Namespaced";
        let mut selectable = metadata_fields(namespaced);
        for field in version.selectable_fields.unwrap_or_default() {
            let name = field.json_path.trim_start_matches('.').to_owned();
            selectable.push((name.clone(), format!("/{}", name.replace('.', "/"))));
        }
        let schema = version
            .schema
            .and_then(|schema| schema.open_api_v3_schema)
            .map(|schema| Schema::new(serde_json::to_value(schema)?))
            .transpose()
            .with_context(|| format!("custom resource {}: schema", names.plural))?;
        let resource = Resource {
            group: crd.spec.group,
            version: version.name,
            singular: names.singular.unwrap_or_else(|| names.kind.to_lowercase()),
            plural: names.plural,
            kind: names.kind,
            short_names: names.short_names.unwrap_or_default(),
            categories: names.categories.unwrap_or_default(),
            namespaced,
            has_status: version.subresources.is_some_and(|subresources| subresources.status.is_some()),
            unconditional_update: false,
            columns,
            selectable,
            normalize,
            initial_status: None,
            storage: 0,
            renamed: &[],
            schema,
        };
        self.add(resource, None);
        Ok(())
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|known| known.plural == plural && known.group == group && known.version == version)
    }

    /// The resource in whose form the objects of a storage are kept: the first that was added.
    pub fn stored_form(&self, resource: &Resource) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|known| known.storage == resource.storage)
    }
}

/// The field selectors that every resource has.
pub(super) fn metadata_fields(namespaced: bool) -> Vec<(String, String)> {
    let mut fields = vec![("metadata.name".to_owned(), "/metadata/name".to_owned())];
    if namespaced {
        fields.push(("metadata.namespace".to_owned(), "/metadata/namespace".to_owned()));
    }
    fields
}
