//! Chat templates: from messages to the text that a model was trained on.
//!
//! Templates are Jinja2 as `transformers` runs it (`utils/chat_template_utils.py`): `trim_blocks`,
//! `lstrip_blocks`, loop controls, Python's methods of strings, lists and dicts, `raise_exception`,
//! `strftime_now`, and a `tojson` that neither escapes HTML nor non-ASCII text. The engine is minijinja; what a
//! template can do is bounded: it reads what it is given, nothing else, and its steps are counted.

mod json;

use std::path::Path;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::model::Model;

/// Steps that a template may take: real ones take some thousands.
const FUEL: u64 = 50_000_000;

/// A template, compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and others, by name.
    special: Vec<(String, String)>,
}

/// What a template is rendered with.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// A list of messages: objects with `role` and `content`.
    pub messages: Json,
    /// A list of tools as JSON schemas.
    pub tools: Option<Json>,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Other variables of the template, an object: `enable_thinking`, `documents`, ...
    pub variables: serde_json::Map<String, Json>,
    /// The time that `strftime_now` tells; `None` for the clock's.
    pub now: Option<DateTime>,
}

impl ChatTemplate {
    /// Compiles a template. `special` are variables that name special tokens: `("bos_token", "<s>")`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the line of a syntax error.
    pub fn new(source: &str, special: Vec<(String, String)>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed(&e))?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", source.to_owned()).map_err(|e| failed(&e))?;
        Ok(ChatTemplate { environment, special })
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: messages that are no list, and what the template refuses.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        if !chat.messages.is_array() {
            let reason = "messages are to be a list of objects with role and content".to_owned();
            return Err(Error::ChatTemplate { reason });
        }
        let mut environment = self.environment.clone();
        let now = chat.now;
        environment.add_function("strftime_now", move |format: String| {
            let now = now.unwrap_or_else(|| jiff::ZonedDateTime::now().datetime());
            jiff::fmt::strtime::format(&format, now)
                .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        let mut variables: Vec<(String, Value)> =
            self.special.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        variables.push(("messages".to_owned(), json::value(&chat.messages)));
        variables.push(("add_generation_prompt".to_owned(), chat.add_generation_prompt.into()));
        // As in transformers, they are none, not undefined, where there are none.
        variables
            .push(("tools".to_owned(), chat.tools.as_ref().map_or(Value::from(()), json::value)));
        variables.push(("documents".to_owned(), ().into()));
        variables.extend(chat.variables.iter().map(|(k, v)| (k.clone(), json::value(v))));
        let context = Value::from_pairs(variables);
        let template = environment.get_template("chat").map_err(|e| failed(&e))?;
        template.render(context).map_err(|e| failed(&e))
    }
}

fn failed(e: &minijinja::Error) -> Error {
    let line = e.line().map_or_else(String::new, |line| format!("line {line}: "));
    let what = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    Error::ChatTemplate { reason: format!("{line}{what}") }
}

/// The chat template of a Hugging Face folder: `chat_template.jinja`, else `chat_template` in
/// `tokenizer_config.json`, of which the one named `tool_use` is taken for chats with tools. `None` where there is
/// none.
///
/// # Errors
/// A file that cannot be read, or is not what it should be.
pub fn template_of_folder(folder: &Path, tools: bool) -> Result<Option<String>> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        return std::fs::read_to_string(&file).map(Some).map_err(Error::io(file));
    }
    let template = tokenizer_config(folder)?.remove("chat_template");
    match template {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(template)) => Ok(Some(template)),
        Some(Json::Array(named)) => {
            let find = |name: &str| {
                let this = named.iter().find(|t| t["name"] == name)?;
                this["template"].as_str().map(str::to_owned)
            };
            Ok(tools.then(|| find("tool_use")).flatten().or_else(|| find("default")))
        }
        Some(other) => {
            let reason = format!(
                "chat_template in {} is neither text nor a list: {other}",
                folder.join("tokenizer_config.json").display()
            );
            Err(Error::ChatTemplate { reason })
        }
    }
}

/// The special tokens of a Hugging Face folder by their names in `tokenizer_config.json`.
///
/// # Errors
/// A file that cannot be read, or is not JSON.
pub fn special_of_folder(folder: &Path) -> Result<Vec<(String, String)>> {
    let named = tokenizer_config(folder)?.into_iter().filter(|(key, _)| key.ends_with("_token"));
    Ok(named
        .filter_map(|(key, value)| {
            // Text, or an object with the text as `content`.
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((key, text.to_owned()))
        })
        .collect())
}

/// `tokenizer_config.json`; empty where there is none.
fn tokenizer_config(folder: &Path) -> Result<serde_json::Map<String, Json>> {
    let file = folder.join("tokenizer_config.json");
    if !file.is_file() {
        return Ok(serde_json::Map::new());
    }
    let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::ChatTemplate {
        reason: format!("{} is not a JSON object: {e}", file.display()),
    })
}

impl Model {
    /// The model's chat template; of a folder that has several, the one for chats with or without tools.
    ///
    /// # Errors
    /// No tokenizer, no template, a template that is not Jinja2.
    pub fn chat_template(&self, tools: bool) -> Result<ChatTemplate> {
        let tokenizer = self.tokenizer()?;
        let token =
            |name: &str, id: Option<u32>| Some((name.to_owned(), tokenizer.token(id?)?.to_owned()));
        let mut special: Vec<_> = [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())]
            .into_iter()
            .filter_map(|(name, id)| token(name, id))
            .collect();
        let mut source = tokenizer.chat_template().map(str::to_owned);
        if self.path.is_dir() {
            special.extend(special_of_folder(&self.path)?);
            source = template_of_folder(&self.path, tools)?;
        }
        ChatTemplate::new(&source.ok_or(Error::NoChatTemplate)?, special)
    }

    /// Ids of a rendered chat: control tokens are parsed, and BOS is where the template put it, or nowhere.
    ///
    /// # Errors
    /// No tokenizer; a text that the vocabulary cannot express.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer()?.encode(text, false, true)
    }
}
