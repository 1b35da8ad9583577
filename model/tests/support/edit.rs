//! Hugging Face folders changed in one place.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};
use tritlab_model::{Error, Model, Result};

use super::{error, folder, load, whole_error};

/// A tensor to be written.
#[derive(Clone)]
pub struct Draft {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// A folder to be written, with everything open to change.
pub struct Edit {
    pub config: Value,
    pub tensors: Vec<Draft>,
    pub folder: tempfile::TempDir,
}

impl Edit {
    pub fn of(name: &str) -> Edit {
        let bytes = std::fs::read(folder(name).join("model.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = all
            .tensors()
            .into_iter()
            .map(|(name, t)| Draft {
                name,
                dtype: t.dtype(),
                shape: t.shape().to_vec(),
                data: t.data().to_vec(),
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let config = std::fs::read(folder(name).join("config.json")).unwrap();
        Edit {
            config: serde_json::from_slice(&config).unwrap(),
            tensors,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn set(mut self, key: &str, value: Value) -> Edit {
        self.config[key] = value;
        self
    }

    pub fn unset(mut self, key: &str) -> Edit {
        self.config.as_object_mut().unwrap().remove(key).unwrap();
        self
    }

    pub fn without(mut self, name: &str) -> Edit {
        let before = self.tensors.len();
        self.tensors.retain(|t| t.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name}");
        self
    }

    pub fn with(mut self, name: &str, dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Edit {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Draft { name, dtype, shape, data });
        self
    }

    pub fn floats(self, name: &str, x: &[f32]) -> Edit {
        let data = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.with(name, Dtype::F32, &[x.len()], data)
    }

    pub fn change(mut self, name: &str, change: impl FnOnce(&mut Draft)) -> Edit {
        change(self.tensors.iter_mut().find(|t| t.name == name).unwrap());
        self
    }

    pub fn rename(mut self, rename: impl Fn(&str) -> String) -> Edit {
        self.tensors.iter_mut().for_each(|t| t.name = rename(&t.name));
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn save(&self, file: &str, tensors: &[Draft]) {
        let views = tensors.iter().map(|t| {
            let view = safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data);
            (t.name.as_str(), view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &self.file(file)).unwrap();
    }

    pub fn write_config(&self) {
        std::fs::write(self.file("config.json"), self.config.to_string()).unwrap();
    }

    pub fn write(self) -> Edit {
        self.write_config();
        self.save("model.safetensors", &self.tensors);
        self
    }

    /// In two shards with an index.
    pub fn write_shards(self) -> Edit {
        self.write_config();
        let (a, b) = self.tensors.split_at(self.tensors.len() / 2);
        let mut map = serde_json::Map::new();
        for (file, part) in
            [("model-00001-of-00002.safetensors", a), ("model-00002-of-00002.safetensors", b)]
        {
            self.save(file, part);
            map.extend(part.iter().map(|t| (t.name.clone(), json!(file))));
        }
        self.write_index(json!({"metadata": {"total_size": 0}, "weight_map": map}));
        self
    }

    pub fn write_index(&self, index: Value) {
        std::fs::write(self.file("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    pub fn load(self) -> Result<Model> {
        let edit = self.write();
        load(edit.path())
    }

    /// Loads, is refused, and says so of this file.
    pub fn refused(self, file: &str) -> Error {
        let edit = self.write();
        refused_in(edit.path(), file)
    }
}

/// Loads, is refused, and says so of this file of the folder.
pub fn refused_in(folder: &Path, file: &str) -> Error {
    let e = whole_error(load(folder));
    match &e {
        Error::InFile { path, source } => assert_eq!(*path, folder.join(file), "{source}"),
        e => panic!("no file is named: {e}"),
    }
    error::<()>(Err(e))
}
